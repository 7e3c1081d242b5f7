"""What must not be learned: personal data, names, deleted posts and opt-outs."""
