"""Serves on $PORT, or 8080; answers the request it makes to itself with --check and ends."""
import os
import sys

import sqlalchemy
from flask import Flask, request
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from service import GREETING

app = Flask("service")
database = sqlalchemy.create_engine("sqlite://")


@app.get("/health")
def health():
    with database.connect() as connection:
        return {"ok": connection.execute(sqlalchemy.text("select 1")).scalar() == 1, "greeting": GREETING}


@app.post("/highlight")
def colours():
    return highlight(request.get_data(as_text=True), PythonLexer(), HtmlFormatter())


if "--check" in sys.argv:
    client = app.test_client()
    assert "<span" in client.post("/highlight", data="import os").get_data(as_text=True)
    print(client.get("/health").get_json(), "uid", os.getuid())
else:
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
