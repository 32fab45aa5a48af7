// Greets whoever the JSON body or the query names:
//   curl localhost:9000/invoke/hello-js -d '{"name":"Ana"}'
//   curl 'localhost:9000/invoke/hello-js?name=Ana'
exports.handler = async (req) => {
  let name = new URLSearchParams(req.query).get('name');
  if (req.body) {
    try {
      ({ name } = await req.json());
    } catch {
      return { statusCode: 400, body: { message: 'send JSON such as {"name": "Ana"}' } };
    }
  }
  return { body: { message: `Hello, ${name ?? 'world'}!` } };
};
