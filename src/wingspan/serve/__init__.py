"""assistant -> answers: the gateway that searches posts, asks the engine, checks citations, and the chat page."""
