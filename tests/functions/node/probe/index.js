// Tries to get out of the box. Answers {attempts: {what: outcome}, facts: {…}}; an outcome that starts with "got" is an escape.
const fs = require('fs');
const net = require('net');
const os = require('os');
const { spawnSync } = require('child_process');

function attempt(action) {
  try {
    const value = action();
    return 'got ' + String(value === undefined ? 'through' : value).slice(0, 200);
  } catch (error) {
    return 'refused ' + (error.code ?? error.message);
  }
}

const read = (path) => () => fs.readFileSync(path, 'utf8');
const write = (path) => () => fs.writeFileSync(path, 'x');

// A program that succeeds has got through; one that is missing or fails has not.
const run = (...argv) => () => {
  const done = spawnSync(argv[0], argv.slice(1), { encoding: 'utf8', timeout: 5000 });
  if (done.error) throw done.error;
  if (done.status !== 0) throw Object.assign(new Error(), { code: 'exit ' + (done.status ?? done.signal) });
  return done.stdout;
};

const connect = (options) => new Promise((resolve) => {
  const socket = net.connect({ timeout: 2000, ...options });
  socket.on('connect', () => { socket.destroy(); resolve('got connected'); });
  socket.on('timeout', () => { socket.destroy(); resolve('refused timeout'); });
  socket.on('error', (error) => resolve('refused ' + error.code));
});

exports.handler = async (req) => {
  const { hostFile, dataDir, port, serverPid, otherPid } = await req.json();
  const attempts = {};
  const files = ['/etc/shadow', '/etc/sudoers', '/etc/ssh/ssh_host_rsa_key', '/root/.bashrc', '/proc/kcore', '/dev/mem', '/dev/kmsg',
    '/dev/vda', '/dev/sda', '/var/log/dpkg.log', hostFile, '/proc/1/root' + hostFile, '/proc/self/root' + hostFile,
    '/proc/self/cwd/../../../../../../' + hostFile, `/proc/${serverPid}/environ`, `/proc/${serverPid}/root${hostFile}`,
    `/proc/${otherPid}/environ`, `/proc/${otherPid}/mem`, `/proc/${serverPid}/cmdline`];
  for (const path of files) attempts['read ' + path] = attempt(read(path));
  for (const path of [dataDir, dataDir + '/code', '/root', '/home', '/var/lib', '/run/offshoot/code', '/sys/fs/cgroup', '/sys/kernel', '/boot', '/mnt', '/media', '/srv']) {
    attempts['list ' + path] = attempt(() => {
      const names = fs.readdirSync(path);
      if (names.length === 0) throw new Error('empty');
      return names;
    });
  }
  const targets = ['/usr/offshoot-test', '/usr/bin/offshoot-test', '/var/task/x', '/var/runtime/x', '/etc/x', '/etc/passwd', '/x', '/lib/x', '/bin/x',
    '/opt/x', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/self/uid_map', '/proc/self/gid_map', '/proc/self/setgroups',
    '/proc/self/oom_score_adj.x', '/sys/fs/cgroup/x', '/sys/kernel/uevent_helper', '/dev/x', hostFile];
  for (const path of targets) attempts['write ' + path] = attempt(write(path));
  for (const id of ['setuid', 'setgid', 'seteuid', 'setegid']) attempts[id + '(0)'] = attempt(() => process[id](0));
  attempts['setgroups([0])'] = attempt(() => process.setgroups([0]));
  for (const pid of [serverPid, otherPid]) attempts[`kill ${pid === serverPid ? 'the server' : 'another instance'}`] = attempt(() => process.kill(pid, 0));
  attempts['setPriority -20'] = attempt(() => os.setPriority(0, -20));
  fs.writeFileSync('/tmp/own', 'x');
  attempts['chown to root'] = attempt(() => fs.chownSync('/tmp/own', 0, 0));
  fs.copyFileSync('/usr/bin/id', '/tmp/id');
  fs.chmodSync('/tmp/id', 0o755);
  attempts['setuid program of its own'] = attempt(() => {
    fs.chmodSync('/tmp/id', 0o6755);
    const uid = run('/tmp/id', '-u')().trim();
    if (uid !== '0') throw Object.assign(new Error(), { code: 'uid ' + (uid === String(process.getuid()) ? 'unchanged' : uid) });
    return uid;
  });
  for (const argv of [['mount', '-t', 'tmpfs', 'x', '/tmp'], ['mount', '--bind', '/', '/tmp'], ['umount', '/proc'], ['unshare', '-U', 'true'], ['unshare', '-r', 'true'],
    ['unshare', '-m', 'true'], ['unshare', '-n', 'true'], ['unshare', '-p', '-f', 'true'], ['nsenter', '-t', '1', '-m', 'cat', hostFile],
    ['chroot', '/', 'true'], ['mknod', '/tmp/disk', 'b', '254', '0'], ['mknod', '/tmp/mem', 'c', '1', '1'], ['dmesg'], ['su', '-c', 'true'],
    ['sudo', '-n', 'true'], ['ping', '-c1', '-W1', '127.0.0.1'], ['ip', 'link', 'add', 'dummy0', 'type', 'dummy'], ['hostname', 'owned'],
    ['setpriv', '--inh-caps=+sys_admin', 'true'], ['date', '-s', '2000-01-01']]) {
    attempts[argv.slice(0, 4).join(' ')] = attempt(run(...argv));
  }
  attempts['connect to the server'] = await connect({ host: '127.0.0.1', port });
  attempts['connect to the metadata service'] = await connect({ host: '169.254.169.254', port: 80 });
  attempts['connect to a public address'] = await connect({ host: '1.1.1.1', port: 53 });
  attempts['connect to a unix socket of the host'] = await connect({ path: hostFile + '.sock' });
  const links = fs.readdirSync('/proc/self/fd').map((fd) => { try { return fs.readlinkSync('/proc/self/fd/' + fd); } catch { return ''; } });
  const status = Object.fromEntries(fs.readFileSync('/proc/self/status', 'utf8').split('\n').filter(Boolean).map((l) => l.split(/:\s*/)));
  const spaces = {};
  for (const kind of ['mnt', 'ipc', 'uts', 'pid', 'net']) spaces[kind] = fs.readlinkSync('/proc/self/ns/' + kind);
  const facts = {
    status, spaces, links, env: process.env, environ: fs.readFileSync('/proc/self/environ', 'utf8'), argv: process.argv,
    hostname: os.hostname(), mounts: fs.readFileSync('/proc/self/mountinfo', 'utf8'), uid: process.getuid(),
    pids: fs.readdirSync('/proc').filter((n) => /^\d+$/.test(n)).length, cwd: process.cwd(),
    cgroup: fs.readFileSync('/proc/self/cgroup', 'utf8'), cmdline: fs.readFileSync('/proc/self/cmdline', 'utf8'),
  };
  return { body: { attempts, facts } };
};
