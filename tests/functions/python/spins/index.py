def handler(req):
    while True:
        pass
