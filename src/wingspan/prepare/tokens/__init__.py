"""From texts to token shards: the tokenizer, the mixture, the files."""
