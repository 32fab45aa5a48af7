// Answers exactly what the body's JSON says, whatever that is.
exports.handler = async (req) => req.json();
