class PaymentError(Exception):
    pass


def handler(req):
    raise PaymentError("no money")
