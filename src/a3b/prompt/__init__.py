"""Messages to token ids: normalising them, the chat template, control tokens, the tokenizer."""
