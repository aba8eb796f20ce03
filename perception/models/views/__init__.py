"""Camera features -> the bird's-eye-view frame."""
