'use strict';
exports.echo = (request, response) => {
  response.json({ ok: true, event: request.body });
};
