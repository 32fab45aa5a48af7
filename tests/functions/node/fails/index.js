class PaymentError extends Error {
  constructor(message) { super(message); this.name = 'PaymentError'; }
}
exports.handler = (req) => {
  const how = req.body || '';
  if (how === 'string') throw 'just a string';
  if (how === 'rejects') return Promise.reject(new PaymentError('rejected'));
  if (how === 'later') return new Promise(() => setTimeout(() => { throw new PaymentError('nobody catches this'); }, 5));
  if (how === 'never') return new Promise(() => {});
  throw new PaymentError('no money');
};
