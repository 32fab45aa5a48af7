// AWS's convention: does what the event asks, and writes what it was given where the log shows it.
exports.handler = async (event) => {
  console.log('GOT ' + JSON.stringify(event));
  if (event.ms) await new Promise((resolve) => setTimeout(resolve, event.ms));
  if (event.fail) throw new TypeError(event.fail);
  return { did: event.n ?? null };
};
