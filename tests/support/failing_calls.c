/* System calls that fail as on a machine at its limits, for LD_PRELOAD.
 *
 * The environment says which: FAIL_FORK=11 has fork and posix_spawn fail with errno 11, and so do FAIL_FLOCK,
 * FAIL_FSYNC, FAIL_RENAME and FAIL_PTHREAD_CREATE. FAIL_WRITE has each write to a regular file fail. FAIL_FSYNC=5:3 has
 * the third call in a process fail, and no other; so do FAIL_RENAME, FAIL_WRITE, FAIL_FDATASYNC and FAIL_PWRITE. FAIL_OPEN=5:NAME has each open of a file whose path ends in NAME fail, with a +
 * before the number only those that may create or change it.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int fault(const char *variable)
{
    const char *number = getenv(variable);
    return number ? atoi(number) : 0;
}

/* As fault(), for the call that is counted. */
static int counted(const char *variable, atomic_int *calls)
{
    const char *plan = getenv(variable), *wanted = plan ? strchr(plan, ':') : NULL;
    int number = atomic_fetch_add(calls, 1) + 1;
    return plan && (!wanted || atoi(wanted + 1) == number) ? atoi(plan) : 0;
}

static int fails(const char *path, int flags)
{
    const char *plan = getenv("FAIL_OPEN"), *name = plan ? strchr(plan, ':') : NULL;
    size_t length = strlen(path), wanted = name ? strlen(++name) : 0;
    if (!name || length < wanted || strcmp(path + length - wanted, name) != 0)
        return 0;
    if (*plan == '+' && !(flags & (O_CREAT | O_WRONLY | O_RDWR)))
        return 0;
    errno = atoi(plan);
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return fails(path, flags) ? -1 : NEXT(name)(path, flags, mode);                                                \
    }

OPEN(open)
OPEN(open64)

pid_t fork(void)
{
    if ((errno = fault("FAIL_FORK")))
        return -1;
    return NEXT(fork)();
}

int posix_spawn(pid_t *process, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    int error = fault("FAIL_FORK");
    return error ? error : NEXT(posix_spawn)(process, path, actions, attributes, arguments, environment);
}

int flock(int descriptor, int operation)
{
    if ((errno = fault("FAIL_FLOCK")))
        return -1;
    return NEXT(flock)(descriptor, operation);
}

int fsync(int descriptor)
{
    static atomic_int calls;
    if ((errno = counted("FAIL_FSYNC", &calls)))
        return -1;
    return NEXT(fsync)(descriptor);
}

int fdatasync(int descriptor)
{
    static atomic_int calls;
    if ((errno = counted("FAIL_FDATASYNC", &calls)))
        return -1;
    return NEXT(fdatasync)(descriptor);
}

ssize_t pwrite64(int descriptor, const void *content, size_t length, off64_t offset)
{
    static atomic_int calls;
    if ((errno = counted("FAIL_PWRITE", &calls)))
        return -1;
    return NEXT(pwrite64)(descriptor, content, length, offset);
}

int rename(const char *from, const char *to)
{
    static atomic_int calls;
    if ((errno = counted("FAIL_RENAME", &calls)))
        return -1;
    return NEXT(rename)(from, to);
}

ssize_t write(int descriptor, const void *content, size_t length)
{
    static atomic_int calls;
    struct stat status;
    if (getenv("FAIL_WRITE") && fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode)) {
        if ((errno = counted("FAIL_WRITE", &calls)))
            return -1;
    }
    return NEXT(write)(descriptor, content, length);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    int error = fault("FAIL_PTHREAD_CREATE");
    return error ? error : NEXT(pthread_create)(thread, attributes, start, argument);
}
