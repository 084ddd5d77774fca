/* A PKCS#11 module that stands in front of a real one, TARGET, and has faults built in.
 *
 * Each fault is a macro of the compiler's command line, so that a module is what its file is and needs no setting at
 * run time, neither in a test's process nor in a child's:
 *
 *   LOGIN_LOG="file"       writes a line to the file at each C_Login
 *   SET_FLAGS=n            sets these flags in the CK_TOKEN_INFO of initialised tokens
 *   CLEAR_FLAGS=n          clears these
 *   SAME_NAME              gives all initialised tokens one label and one serial number
 *   FREE_SLOT_SAYS=ckr     answers this for a token that is not initialised
 *   MECHANISMS_LACK=flags  clears these flags in every CK_MECHANISM_INFO
 *   SMALLEST_KEY=n         makes this every mechanism's ulMinKeySize
 *   LARGEST_KEY=n          makes this every mechanism's ulMaxKeySize
 *   LEAK=attribute         turns this boolean attribute of a private key's template round
 *   SPOILT_SIGNATURE       flips a bit of every signature
 *   BARE_EC_POINT          gives CKA_EC_POINT without the OCTET STRING around it
 *   REFUSED_MECHANISM=ckm  answers CKR_MECHANISM_INVALID where keys are made, or signed with, by this mechanism
 *   CHATTY                 prints to stdout when it is loaded and when it is initialised
 *   HANGING="file"         does not return from C_Initialize; writes its process id to the file
 *   CRASHING_AT_END        reads from the null pointer when it is unloaded, or the process that has it calls exit
 *   PIN_SEEN="file"        writes what HSM_ENROLL_PIN is set to, or "nothing", to the file in C_Initialize
 *
 * PKCS#11 v2.40 (base) section 3.6: a function list is a version and the functions in the order of section 5.
 */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong;

enum function {
    INITIALIZE = 0,
    GET_TOKEN_INFO = 6,
    GET_MECHANISM_INFO = 8,
    LOGIN = 18,
    GET_ATTRIBUTE_VALUE = 24,
    SIGN_INIT = 42,
    SIGN = 43,
    GENERATE_KEY_PAIR = 59,
    FUNCTIONS = 68
};

struct function_list {
    unsigned char version[2];
    void *call[FUNCTIONS];
};

struct token_info { /* only as far as it is needed */
    char label[32], manufacturer[32], model[16], serial[16];
    ulong flags;
};

struct mechanism_info {
    ulong smallest, largest, flags;
};

struct attribute {
    ulong type;
    void *value;
    ulong length;
};

enum { CKR_OK = 0, CKR_MECHANISM_INVALID = 0x70, CKF_TOKEN_INITIALIZED = 0x400, CKA_EC_POINT = 0x181 };

static struct function_list ours, *target;

#if defined LOGIN_LOG || defined HANGING
static void write_line(const char *path, const char *mode, long number)
{
    FILE *file = fopen(path, mode);
    if (!file || fprintf(file, "%ld\n", number) < 0 || fclose(file))
        abort();
}
#endif

#if defined CHATTY || defined HANGING || defined PIN_SEEN
static ulong initialize(void *arguments)
{
#ifdef CHATTY
    puts("{\"tokens\": []}");
#endif
#ifdef PIN_SEEN
    const char *pin = getenv("HSM_ENROLL_PIN");
    FILE *seen = fopen(PIN_SEEN, "w");
    if (!seen || fputs(pin ? pin : "nothing", seen) < 0 || fclose(seen))
        abort();
#endif
#ifdef HANGING
    write_line(HANGING, "w", (long)getpid());
    for (;;)
        pause();
#endif
    return ((ulong(*)(void *))target->call[INITIALIZE])(arguments);
}
#endif

#ifdef CRASHING_AT_END
__attribute__((destructor)) static void unloaded(void)
{
    volatile int *nowhere = NULL;
    *nowhere = 1;
}
#endif

#ifdef CHATTY
__attribute__((constructor)) static void loaded(void)
{
    puts("Vendor module, licensed to nobody");
    fflush(stdout);
}
#endif

#if defined SET_FLAGS || defined CLEAR_FLAGS || defined SAME_NAME || defined FREE_SLOT_SAYS
static ulong get_token_info(ulong slot, struct token_info *info)
{
    ulong status = ((ulong(*)(ulong, struct token_info *))target->call[GET_TOKEN_INFO])(slot, info);
    if (status != CKR_OK)
        return status;
    if (!(info->flags & CKF_TOKEN_INITIALIZED)) {
#ifdef FREE_SLOT_SAYS
        return FREE_SLOT_SAYS;
#endif
        return CKR_OK;
    }
#ifdef SET_FLAGS
    info->flags |= (ulong)SET_FLAGS;
#endif
#ifdef CLEAR_FLAGS
    info->flags &= ~(ulong)CLEAR_FLAGS;
#endif
#ifdef SAME_NAME
    memset(info->label, ' ', sizeof info->label);
    memcpy(info->label, "gateway", strlen("gateway"));
    memset(info->serial, '0', sizeof info->serial);
#endif
    return CKR_OK;
}
#endif

#if defined MECHANISMS_LACK || defined SMALLEST_KEY || defined LARGEST_KEY
static ulong get_mechanism_info(ulong slot, ulong mechanism, struct mechanism_info *info)
{
    ulong status = ((ulong(*)(ulong, ulong, struct mechanism_info *))target->call[GET_MECHANISM_INFO])(slot, mechanism,
                                                                                                       info);
#ifdef MECHANISMS_LACK
    info->flags &= ~(ulong)MECHANISMS_LACK;
#endif
#ifdef SMALLEST_KEY
    info->smallest = SMALLEST_KEY;
#endif
#ifdef LARGEST_KEY
    info->largest = LARGEST_KEY;
#endif
    return status;
}
#endif

#ifdef LOGIN_LOG
static ulong login(ulong session, ulong user, unsigned char *pin, ulong length)
{
    write_line(LOGIN_LOG, "a", (long)user);
    return ((ulong(*)(ulong, ulong, unsigned char *, ulong))target->call[LOGIN])(session, user, pin, length);
}
#endif

#ifdef REFUSED_MECHANISM
static ulong sign_init(ulong session, ulong *mechanism, ulong key)
{
    if (*mechanism == REFUSED_MECHANISM)
        return CKR_MECHANISM_INVALID;
    return ((ulong(*)(ulong, ulong *, ulong))target->call[SIGN_INIT])(session, mechanism, key);
}
#endif

#if defined LEAK || defined REFUSED_MECHANISM
static ulong generate_key_pair(ulong session, ulong *mechanism, struct attribute *public, ulong publics,
                               struct attribute *private, ulong privates, ulong *public_key, ulong *private_key)
{
#ifdef REFUSED_MECHANISM
    if (*mechanism == REFUSED_MECHANISM)
        return CKR_MECHANISM_INVALID;
#endif
#ifdef LEAK
    for (ulong i = 0; i < privates; i++)
        if (private[i].type == LEAK)
            *(unsigned char *)private[i].value ^= 1;
#endif
    return ((ulong(*)(ulong, ulong *, struct attribute *, ulong, struct attribute *, ulong, ulong *, ulong *))
                target->call[GENERATE_KEY_PAIR])(session, mechanism, public, publics, private, privates, public_key,
                                                 private_key);
}
#endif

#ifdef SPOILT_SIGNATURE
static ulong sign(ulong session, unsigned char *data, ulong length, unsigned char *signature, ulong *size)
{
    ulong status = ((ulong(*)(ulong, unsigned char *, ulong, unsigned char *, ulong *))target->call[SIGN])(
        session, data, length, signature, size);
    if (status == CKR_OK && signature)
        signature[*size - 1] ^= 1;
    return status;
}
#endif

#ifdef BARE_EC_POINT
static ulong get_attribute_value(ulong session, ulong object, struct attribute *attributes, ulong count)
{
    ulong (*get)(ulong, ulong, struct attribute *, ulong) = target->call[GET_ATTRIBUTE_VALUE];
    unsigned char buffer[256];
    struct attribute wrapped = {CKA_EC_POINT, buffer, sizeof buffer};
    if (count != 1 || attributes->type != CKA_EC_POINT)
        return get(session, object, attributes, count);
    ulong status = get(session, object, &wrapped, 1);
    if (status == CKR_OK) { /* P-256 and P-384: the tag and the length are a byte each */
        attributes->length = wrapped.length - 2;
        if (attributes->value)
            memcpy(attributes->value, buffer + 2, attributes->length);
    }
    return status;
}
#endif

ulong C_GetFunctionList(struct function_list **list)
{
    void *library = dlopen(TARGET, RTLD_NOW | RTLD_LOCAL);
    ulong (*get_function_list)(struct function_list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
    if (!get_function_list || get_function_list(&target) != CKR_OK) {
        fprintf(stderr, "%s\n", dlerror());
        abort();
    }
    ours = *target;
#if defined CHATTY || defined HANGING || defined PIN_SEEN
    ours.call[INITIALIZE] = initialize;
#endif
#if defined SET_FLAGS || defined CLEAR_FLAGS || defined SAME_NAME || defined FREE_SLOT_SAYS
    ours.call[GET_TOKEN_INFO] = get_token_info;
#endif
#if defined MECHANISMS_LACK || defined SMALLEST_KEY || defined LARGEST_KEY
    ours.call[GET_MECHANISM_INFO] = get_mechanism_info;
#endif
#ifdef LOGIN_LOG
    ours.call[LOGIN] = login;
#endif
#ifdef REFUSED_MECHANISM
    ours.call[SIGN_INIT] = sign_init;
#endif
#if defined LEAK || defined REFUSED_MECHANISM
    ours.call[GENERATE_KEY_PAIR] = generate_key_pair;
#endif
#ifdef SPOILT_SIGNATURE
    ours.call[SIGN] = sign;
#endif
#ifdef BARE_EC_POINT
    ours.call[GET_ATTRIBUTE_VALUE] = get_attribute_value;
#endif
    *list = &ours;
    return CKR_OK;
}
