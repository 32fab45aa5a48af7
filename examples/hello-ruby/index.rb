# Greets whoever the JSON body or the query names:
#
#     curl localhost:9000/invoke/hello-ruby -d '{"name":"Ana"}'
#     curl 'localhost:9000/invoke/hello-ruby?name=Ana'

require "uri"

def handler(req)
  name = URI.decode_www_form(req.query).to_h.fetch("name", "world")
  name = req.json.fetch("name", name) unless req.body.empty?
  { body: { message: "Hello, #{name}!" } }
rescue ArgumentError
  { statusCode: 400, body: { message: 'send JSON such as {"name": "Ana"}' } }
end
