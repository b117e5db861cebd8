"""Between text and token ids: tokenizer, chat template, and the parsing of what the model writes."""
