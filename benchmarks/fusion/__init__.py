"""The study of fusers: branches trained once, their maps kept, every fuser trained on them and scored on any subset."""
