/* A PKCS#11 module that stands in front of another one, passes every call on, and fails where its plan says so.
 *
 * It is built once. A copy of it is a module of its own, with two files beside it: FILE.plan says what goes wrong, and
 * is read anew at each call, so that a fault can come and go; FILE.log gets a line at each call,
 *
 *     process function CKR
 *
 * with "hangs" or "waits" for the CKR of a call that does. A line of the plan is
 *
 *     target path               the module behind this one
 *     function when what n      a fault; n in hexadecimal, 0 where it means nothing
 *
 * `when` is 3 for the third call of this function in a process since the plan was written, 3+ for this and all later
 * ones, 1+ for all. `what` is
 *
 *     fail n          do nothing, return CKR n
 *     late n          do it, and return CKR n all the same: the answer is lost
 *     dead n          do nothing, return CKR n, and so at each later call but C_Finalize, until C_Initialize
 *     hang            do not return
 *     crash           abort
 *     segv            read from the null pointer
 *     exit            end the process, with status 0
 *     tell            say so in the log (begins), and do it
 *     wait            do it once a signal has come
 *     flip            do it, and flip a bit of the signature: C_Sign
 *     set n, clear n  do it, and set or clear these flags in CK_TOKEN_INFO of initialised tokens: C_GetTokenInfo
 *     without n       do not list CKM n, and refuse it to C_SignInit and C_GenerateKeyPair: C_GetMechanismList
 *
 * PKCS#11 v2.40 (base) section 3.6: a function list is a version and the functions in the order of section 5. Each of
 * their arguments fits into a machine word, and none has more than eight.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long ulong;

#define CRYPTOKI(X)                                                                                                    \
    X(0, C_Initialize) X(1, C_Finalize) X(2, C_GetInfo) X(3, C_GetFunctionListAgain) X(4, C_GetSlotList)               \
    X(5, C_GetSlotInfo) X(6, C_GetTokenInfo) X(7, C_GetMechanismList) X(8, C_GetMechanismInfo) X(9, C_InitToken)       \
    X(10, C_InitPIN) X(11, C_SetPIN) X(12, C_OpenSession) X(13, C_CloseSession) X(14, C_CloseAllSessions)              \
    X(15, C_GetSessionInfo) X(16, C_GetOperationState) X(17, C_SetOperationState) X(18, C_Login) X(19, C_Logout)       \
    X(20, C_CreateObject) X(21, C_CopyObject) X(22, C_DestroyObject) X(23, C_GetObjectSize) X(24, C_GetAttributeValue) \
    X(25, C_SetAttributeValue) X(26, C_FindObjectsInit) X(27, C_FindObjects) X(28, C_FindObjectsFinal)                 \
    X(29, C_EncryptInit) X(30, C_Encrypt) X(31, C_EncryptUpdate) X(32, C_EncryptFinal) X(33, C_DecryptInit)            \
    X(34, C_Decrypt) X(35, C_DecryptUpdate) X(36, C_DecryptFinal) X(37, C_DigestInit) X(38, C_Digest)                  \
    X(39, C_DigestUpdate) X(40, C_DigestKey) X(41, C_DigestFinal) X(42, C_SignInit) X(43, C_Sign) X(44, C_SignUpdate)  \
    X(45, C_SignFinal) X(46, C_SignRecoverInit) X(47, C_SignRecover) X(48, C_VerifyInit) X(49, C_Verify)               \
    X(50, C_VerifyUpdate) X(51, C_VerifyFinal) X(52, C_VerifyRecoverInit) X(53, C_VerifyRecover)                       \
    X(54, C_DigestEncryptUpdate) X(55, C_DecryptDigestUpdate) X(56, C_SignEncryptUpdate) X(57, C_DecryptVerifyUpdate)  \
    X(58, C_GenerateKey) X(59, C_GenerateKeyPair) X(60, C_WrapKey) X(61, C_UnwrapKey) X(62, C_DeriveKey)               \
    X(63, C_SeedRandom) X(64, C_GenerateRandom) X(65, C_GetFunctionStatus) X(66, C_CancelFunction)                     \
    X(67, C_WaitForSlotEvent)

enum { FUNCTIONS = 68, WORDS = 8, LINES = 32, MECHANISMS = 1024, TOKEN_INFO_FLAGS = 96 };
enum { CKR_OK = 0, CKR_BUFFER_TOO_SMALL = 0x150, CKR_MECHANISM_INVALID = 0x70, CKF_TOKEN_INITIALIZED = 0x400 };
enum { INITIALIZE = 0, FINALIZE = 1, GET_TOKEN_INFO = 6, GET_MECHANISM_LIST = 7, SIGN_INIT = 42, SIGN = 43, GENERATE_KEY_PAIR = 59 };

typedef ulong (*function)(ulong, ulong, ulong, ulong, ulong, ulong, ulong, ulong);

struct function_list {
    unsigned char version[2];
    function call[FUNCTIONS];
};

struct fault {
    char function[32], when[16], what[16];
    ulong n;
};

struct plan {
    char target[PATH_MAX];
    struct fault faults[LINES];
    int count;
};

#define NAME(number, name) #name,
static const char *const names[FUNCTIONS] = {CRYPTOKI(NAME)};

static struct function_list *target;
static ulong calls[FUNCTIONS], dead;
static ino_t known_plan;

static void give_up(const char *why)
{
    fprintf(stderr, "fault module: %s\n", why);
    abort();
}

static void own_file(char *path, const char *suffix)
{
    Dl_info info;
    if (!dladdr((void *)own_file, &info) || snprintf(path, PATH_MAX, "%s.%s", info.dli_fname, suffix) >= PATH_MAX)
        give_up("where is it?");
}

static void read_plan(struct plan *plan)
{
    char path[PATH_MAX], line[PATH_MAX + 16];
    own_file(path, "plan");
    FILE *file = fopen(path, "re");
    struct stat status;
    if (!file || fstat(fileno(file), &status))
        give_up("it has no plan");
    if (status.st_ino != known_plan)
        memset(calls, 0, sizeof calls);
    known_plan = status.st_ino;
    plan->count = 0;
    while (fgets(line, sizeof line, file)) {
        struct fault *fault = &plan->faults[plan->count];
        if (sscanf(line, "target %4095[^\n]", plan->target) == 1)
            continue;
        if (plan->count == LINES
            || sscanf(line, "%31s %15s %15s %lx", fault->function, fault->when, fault->what, &fault->n) != 4)
            give_up("its plan cannot be read");
        plan->count++;
    }
    fclose(file);
}

static void report(int number, const char *outcome)
{
    char path[PATH_MAX], line[128];
    own_file(path, "log");
    int length = snprintf(line, sizeof line, "%ld %s %s\n", (long)getpid(), names[number], outcome);
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || write(file, line, (size_t)length) != length || close(file))
        give_up("its log cannot be written");
}

static ulong returned(int number, ulong status)
{
    char text[24];
    snprintf(text, sizeof text, "0x%lx", status);
    report(number, text);
    return status;
}

static ulong pass_on(int number, const ulong *word)
{
    return target->call[number](word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]);
}

static int is_due(const struct fault *fault, int number)
{
    char *rest;
    ulong first = strtoul(fault->when, &rest, 10);
    return strcmp(fault->function, names[number]) == 0
           && (*rest == '+' ? calls[number] >= first : calls[number] == first);
}

static int is_missing(const struct plan *plan, ulong mechanism)
{
    for (int i = 0; i < plan->count; i++)
        if (strcmp(plan->faults[i].what, "without") == 0 && plan->faults[i].n == mechanism)
            return 1;
    return 0;
}

static ulong list_mechanisms(const struct plan *plan, const ulong *word)
{
    ulong all[MECHANISMS], size = MECHANISMS, kept = 0, *list = (ulong *)word[1], *count = (ulong *)word[2];
    ulong status = pass_on(GET_MECHANISM_LIST, (ulong[WORDS]){word[0], (ulong)all, (ulong)&size});
    if (status != CKR_OK)
        return status;
    for (ulong i = 0; i < size; i++)
        if (!is_missing(plan, all[i]))
            all[kept++] = all[i];
    ulong room = *count;
    *count = kept;
    if (!list)
        return CKR_OK;
    if (room < kept)
        return CKR_BUFFER_TOO_SMALL;
    memcpy(list, all, kept * sizeof *list);
    return CKR_OK;
}

static ulong carry_out(const struct plan *plan, int number, const ulong *word)
{
    int asks_for_mechanism = number == SIGN_INIT || number == GENERATE_KEY_PAIR;
    if (asks_for_mechanism && is_missing(plan, *(const ulong *)word[1]))
        return CKR_MECHANISM_INVALID;
    return number == GET_MECHANISM_LIST ? list_mechanisms(plan, word) : pass_on(number, word);
}

static void distort(const struct fault *fault, int number, const ulong *word)
{
    if (number == SIGN && strcmp(fault->what, "flip") == 0 && word[3])
        ((unsigned char *)word[3])[*(const ulong *)word[4] - 1] ^= 1;
    if (number != GET_TOKEN_INFO)
        return;
    ulong *flags = (ulong *)(word[1] + TOKEN_INFO_FLAGS);
    if (!(*flags & CKF_TOKEN_INITIALIZED))
        return;
    if (strcmp(fault->what, "set") == 0)
        *flags |= fault->n;
    if (strcmp(fault->what, "clear") == 0)
        *flags &= ~fault->n;
}

static void hang(int number)
{
    report(number, "hangs");
    for (;;)
        pause();
}

static void wait_for_signal(int number)
{
    sigset_t all, before;
    sigfillset(&all);
    /* Held back until sigsuspend, so that none is missed between the report and the wait. */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    report(number, "waits");
    sigsuspend(&before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static ulong call(int number, const ulong *word)
{
    struct plan plan;
    read_plan(&plan);
    calls[number]++;
    if (number == INITIALIZE)
        dead = CKR_OK;
    if (dead != CKR_OK && number != FINALIZE)
        return returned(number, dead);
    for (int i = 0; i < plan.count; i++) {
        const struct fault *fault = &plan.faults[i];
        if (!is_due(fault, number))
            continue;
        if (strcmp(fault->what, "hang") == 0)
            hang(number);
        if (strcmp(fault->what, "crash") == 0)
            abort();
        if (strcmp(fault->what, "segv") == 0)
            return *(volatile ulong *)NULL;
        if (strcmp(fault->what, "exit") == 0)
            exit(0);
        if (strcmp(fault->what, "tell") == 0)
            report(number, "begins");
        if (strcmp(fault->what, "wait") == 0)
            wait_for_signal(number);
        if (strcmp(fault->what, "dead") == 0)
            dead = fault->n;
        if (strcmp(fault->what, "dead") == 0 || strcmp(fault->what, "fail") == 0)
            return returned(number, fault->n);
    }
    ulong status = carry_out(&plan, number, word);
    for (int i = 0; i < plan.count && status == CKR_OK; i++) {
        if (!is_due(&plan.faults[i], number))
            continue;
        distort(&plan.faults[i], number, word);
        if (strcmp(plan.faults[i].what, "late") == 0)
            status = plan.faults[i].n;
    }
    return returned(number, status);
}

#define WRAPPER(number, name)                                                                                          \
    ulong name(ulong a, ulong b, ulong c, ulong d, ulong e, ulong f, ulong g, ulong h)                                 \
    {                                                                                                                  \
        return call(number, (const ulong[WORDS]){a, b, c, d, e, f, g, h});                                             \
    }
CRYPTOKI(WRAPPER)

#define MEMBER(number, name) name,
static struct function_list ours = {{2, 40}, {CRYPTOKI(MEMBER)}};

ulong C_GetFunctionList(struct function_list **list)
{
    struct plan plan;
    read_plan(&plan);
    void *library = dlopen(plan.target, RTLD_NOW | RTLD_LOCAL);
    ulong (*get_function_list)(struct function_list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
    if (!get_function_list || get_function_list(&target) != CKR_OK)
        give_up("its target cannot be loaded");
    memcpy(ours.version, target->version, sizeof ours.version);
    *list = &ours;
    return CKR_OK;
}
