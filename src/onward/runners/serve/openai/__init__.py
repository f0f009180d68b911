"""The OpenAI API over the served packages: chat, completions, embeddings, speech in and out, and the models' list."""
