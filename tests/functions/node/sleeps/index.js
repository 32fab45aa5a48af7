let active = 0;
let most = 0;
// Sleeps for the milliseconds in the body and says what else ran here meanwhile.
exports.handler = async (req) => {
  active += 1;
  most = Math.max(most, active);
  await new Promise((resolve) => setTimeout(resolve, Number(req.body)));
  active -= 1;
  return { body: { slept: Number(req.body), most, env: process.env.MARK ?? null } };
};
