/* Pulls the plug: preloaded into the program under test, it kills the process without warning before the CASEMATE_PLUG_AT-th call that
 * makes something durable or takes it away. With CASEMATE_PLUG_PATH only calls about
 * paths with that in them count. CASEMATE_PLUG_LOG is a file to which each such call is appended, a line each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_int seen;

static void step(const char *call, const char *path)
{
    const char *only = getenv("CASEMATE_PLUG_CALLS");
    if (only && !strstr(only, call))
        return;
    const char *where = getenv("CASEMATE_PLUG_PATH");
    if (where && !strstr(path, where))
        return;
    const char *log = getenv("CASEMATE_PLUG_LOG");
    int fd = log ? open(log, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (fd >= 0) {
        dprintf(fd, "%s %s\n", call, path);
        close(fd);
    }
    const char *at = getenv("CASEMATE_PLUG_AT");
    if (at && atomic_fetch_add(&seen, 1) + 1 == atoi(at))
        kill(getpid(), SIGKILL);
}

int rename(const char *from, const char *to)
{
    step("rename", to);
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    step("unlink", path);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int fdatasync(int fd)
{
    step("fdatasync", "");
    return (int)syscall(SYS_fdatasync, fd);
}
