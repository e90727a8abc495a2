"""The methods inside other programs. Each file needs the extra of its name and is imported by its user alone."""
