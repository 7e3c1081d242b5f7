"""What a person looks at after a run: one self-contained HTML page with plan beside reality, scores and proofs."""
