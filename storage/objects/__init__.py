"""Where the bytes are: one interface over S3 and over a local folder, a cache by content, and reading through both.

Importing this package imports no S3 client; `storage.objects.uri` imports nothing but the standard library.
"""
