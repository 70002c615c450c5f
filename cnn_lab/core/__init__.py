"""The ground floor, known to every room: errors, files, trees, random words, array aliases."""
