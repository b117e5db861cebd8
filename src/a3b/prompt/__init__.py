"""Messages to token ids: chat template, control tokens, tokenizer."""
