"""Answers at once, or after the milliseconds in the body; says which instance this is and how many calls it has begun."""
import time
import uuid

begun = 0
born = str(uuid.uuid4())


def handler(req):
    global begun
    begun += 1
    answer = {"begun": begun, "born": born, "asked": req.body}
    if req.body:
        time.sleep(int(req.body) / 1000)
    return {"body": answer}
