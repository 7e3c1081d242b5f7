"""What runs an assistant: one small interface, openvino-genai on processors, torch as the reference."""
