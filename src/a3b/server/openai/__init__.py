"""OpenAI's APIs: chat completions, completions, responses, models; and tokenizing as other servers have it."""
