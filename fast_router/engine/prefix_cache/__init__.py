"""What a server's prefix cache holds and what it has yet to compute, as far as that can be known from outside.

One idea per file: a prompt's beginnings as numbers (`prompt`), the mirror of one server's cache (`mirror`), its queue
(`backlog`), how fast it computes (`speed`), all that about one server (`work`), what siblings share (`fleet`), and who
holds a beginning in a large fleet (`holders`).
"""
