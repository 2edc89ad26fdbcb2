"""OpenAI's responses API: conversations that the server can remember, and answers in the background."""
