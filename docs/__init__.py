"""What README links to; options.md is made by a script."""
