/* Kills the process that makes its n-th call of ftruncate, before the call, for LD_PRELOAD: KILL_AT_WRITE=n.
 *
 * SoftHSM 2.6 writes a file anew each time: it empties the file with this call, and then fills it.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int calls;

int ftruncate(int file, off_t length)
{
    if (++calls == atoi(getenv("KILL_AT_WRITE")))
        raise(SIGKILL);
    return ((int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate"))(file, length);
}
