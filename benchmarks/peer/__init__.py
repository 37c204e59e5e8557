"""What people would use instead: a small GPT in PyTorch, written and tuned as they are."""
