"""What the CMU server holds, how it is downloaded, and a demo that needs neither."""
