"""Greets whoever the JSON body or the query names:

    curl localhost:9000/invoke/hello-python -d '{"name":"Ana"}'
    curl 'localhost:9000/invoke/hello-python?name=Ana'
"""

from urllib.parse import parse_qs


def handler(req):
    name = parse_qs(req.query).get("name", ["world"])[0]
    if req.body:
        try:
            name = req.json().get("name", name)
        except ValueError:
            return {"statusCode": 400, "body": {"message": 'send JSON such as {"name": "Ana"}'}}
    return {"body": {"message": "Hello, %s!" % name}}
