// Answers at once, or after the milliseconds in the body; says which instance this is and how many calls it has begun.
let begun = 0;
const born = require('crypto').randomUUID();
exports.handler = async (req) => {
  begun += 1;
  const answer = { begun, born, asked: req.body };
  if (req.body !== '') await new Promise((resolve) => setTimeout(resolve, Number(req.body)));
  return { body: answer };
};
