"""Fills /tmp with bytes, then with empty files, and says how far it got."""
import errno
import os


def handler(req):
    size = files = 0
    why = files_why = None
    fd = os.open("/tmp/big", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            size += os.write(fd, b"\7" * 65536)
    except OSError as error:
        why = errno.errorcode[error.errno]
    os.close(fd)
    os.unlink("/tmp/big")
    try:
        while files < 3000000:
            os.close(os.open("/tmp/f%d" % files, os.O_WRONLY | os.O_CREAT))
            files += 1
    except OSError as error:
        files_why = errno.errorcode[error.errno]
    return {"body": {"bytes": size, "why": why, "files": files, "filesWhy": files_why}}
