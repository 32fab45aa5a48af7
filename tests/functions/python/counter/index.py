import uuid

count = 0
born = str(uuid.uuid4())


def handler(req):
    global count
    count += 1
    return {"body": {"count": count, "born": born}}
