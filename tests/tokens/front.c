/* A PKCS#11 module that stands in front of TARGET and is another kind of token than that.
 *
 *   TYPED_PIN="pin"    has a PIN pad (CKF_PROTECTED_AUTHENTICATION_PATH, PKCS#11 v2.40 section 5.6): a login brings no
 *   LOGIN_LOG="file"   PIN, and this one is typed; each login adds a line to the file, "typed" or "sent"
 *   CRYPTOKI_MINOR=n   implements version 2.n
 *   CRYPTOKI_MAJOR=n   implements version n.40
 */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long ulong;

enum { GET_TOKEN_INFO = 6, LOGIN = 18, FUNCTIONS = 68 };
enum { CKR_OK = 0, CKR_ARGUMENTS_BAD = 7, CKF_PROTECTED_AUTHENTICATION_PATH = 0x100 };

struct function_list {
    unsigned char major, minor;
    void *call[FUNCTIONS];
};

struct token_info {
    unsigned char label[32], manufacturer[32], model[16], serial[16];
    ulong flags;
};

static struct function_list ours, *target;

#ifdef TYPED_PIN
static ulong get_token_info(ulong slot, struct token_info *info)
{
    ulong status = ((ulong(*)(ulong, struct token_info *))target->call[GET_TOKEN_INFO])(slot, info);
    if (status == CKR_OK)
        info->flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
    return status;
}

static ulong login(ulong session, ulong user, unsigned char *pin, ulong length)
{
    FILE *log = fopen(LOGIN_LOG, "a");
    if (!log || fprintf(log, "%s\n", pin || length ? "sent" : "typed") < 0 || fclose(log))
        abort();
    if (pin || length)
        return CKR_ARGUMENTS_BAD;
    return ((ulong(*)(ulong, ulong, const char *, ulong))target->call[LOGIN])(session, user, TYPED_PIN,
                                                                              strlen(TYPED_PIN));
}
#endif

ulong C_GetFunctionList(struct function_list **list)
{
    void *library = dlopen(TARGET, RTLD_NOW | RTLD_LOCAL);
    ulong (*get_function_list)(struct function_list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
    if (!get_function_list || get_function_list(&target) != CKR_OK)
        abort();
    ours = *target;
#ifdef TYPED_PIN
    ours.call[GET_TOKEN_INFO] = get_token_info;
    ours.call[LOGIN] = login;
#endif
#ifdef CRYPTOKI_MINOR
    ours.minor = CRYPTOKI_MINOR;
#endif
#ifdef CRYPTOKI_MAJOR
    ours.major = CRYPTOKI_MAJOR;
#endif
    *list = &ours;
    return CKR_OK;
}
