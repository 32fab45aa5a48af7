class PaymentError < StandardError
end

def handler(req)
  raise PaymentError, "no money"
end
