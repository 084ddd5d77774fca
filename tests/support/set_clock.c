/* A wall clock that is set while programs run, for LD_PRELOAD.
 *
 * SET_CLOCK_FILE names a file of eight bytes: by how many seconds the clock is off. All other clocks go on as they are,
 * as with clock_settime(2). A wait with a deadline by the wall clock takes as long as it would have before the clock was
 * set.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define EARLIEST 1000000000 /* the clock that counts from this machine's start has not come that far */

static int64_t offset(void)
{
    static const volatile int64_t *mapped;
    if (!mapped) {
        int file = open(getenv("SET_CLOCK_FILE"), O_RDONLY | O_CLOEXEC);
        mapped = mmap(NULL, sizeof *mapped, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (mapped == MAP_FAILED)
            abort();
    }
    return *mapped;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int status = NEXT(clock_gettime)(clock, at);
    if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += offset();
    return status;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    int status = NEXT(gettimeofday)(at, zone);
    at->tv_sec += offset();
    return status;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int pthread_cond_timedwait(
    pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict deadline)
{
    if (deadline->tv_sec < EARLIEST)
        return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, deadline);
    struct timespec real = {deadline->tv_sec - offset(), deadline->tv_nsec};
    return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &real);
}
