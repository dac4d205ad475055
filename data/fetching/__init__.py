"""The CMU server's files, how they are downloaded, and a demo that needs neither."""
