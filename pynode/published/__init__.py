"""What is published: the files that browsers run, who signed them, and whether a site serves just these.

Does: the manifest with its root hash, minisign signatures, the log of releases, checks of folders and sites, mirrors.
Does not: build the files (build.py does), or run them.
"""
