const { spawn } = require('child_process');
// Leaves a process behind that tries to outlive everything.
exports.handler = async () => {
  const script = "trap '' TERM HUP INT; (setsid sh -c \"trap '' TERM HUP INT; while :; do sleep 0.1; done\" &) ; exit 0";
  const child = spawn('/bin/sh', ['-c', script], { detached: true, stdio: 'ignore' });
  await new Promise((resolve) => child.on('exit', resolve));
  return { body: 'left behind' };
};
