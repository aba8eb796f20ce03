"""The study of heads: all tasks on one trunk or each alone, queries or a dense map, beside what is known blind."""
