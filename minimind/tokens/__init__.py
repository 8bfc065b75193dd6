"""Text to ids: the tokenizer, chats as ids, token sets, packed batches. Rows of text are `minimind.data`."""
