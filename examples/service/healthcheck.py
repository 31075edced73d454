"""Succeeds when the service answers."""
import os
import urllib.request

with urllib.request.urlopen(f"http://127.0.0.1:{os.environ.get('PORT', '8080')}/health", timeout=2) as reply:
    assert reply.status == 200
