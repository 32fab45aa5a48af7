import asyncio

active = most = 0


async def handler(req):
    global active, most
    active += 1
    most = max(most, active)
    await asyncio.sleep(0.2)
    active -= 1
    return {"body": {"sent": await req.json(), "most": most}}
