/* System calls that fail as on a machine at its limits, for LD_PRELOAD.
 *
 * The environment says which: FAIL_FORK=11 has fork and posix_spawn fail with errno 11, and so do FAIL_FLOCK,
 * FAIL_FSYNC and FAIL_PTHREAD_CREATE. FAIL_OPEN=5:NAME has each open of a file whose path ends in NAME fail, with a +
 * before the number only those that may create or change it.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int fault(const char *variable)
{
    const char *number = getenv(variable);
    return number ? atoi(number) : 0;
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
    if ((errno = fault("FAIL_FSYNC")))
        return -1;
    return NEXT(fsync)(descriptor);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    int error = fault("FAIL_PTHREAD_CREATE");
    return error ? error : NEXT(pthread_create)(thread, attributes, start, argument);
}
