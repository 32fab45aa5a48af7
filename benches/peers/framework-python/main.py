def echo(request):
    return {"ok": True, "event": request.get_json()}
