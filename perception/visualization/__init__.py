"""Pictures of what a sample holds and what was predicted: bird's-eye view, cameras, panels, videos, 3-D windows."""
