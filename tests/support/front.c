/* A PKCS#11 module that stands in front of TARGET and is another kind of token than that.
 *
 *   TYPED_PIN="pin"    has a PIN pad (CKF_PROTECTED_AUTHENTICATION_PATH, PKCS#11 v2.40 section 5.6): a login brings no
 *                      PIN, and this one is typed
 *   LOGIN_FREE="pin"   wants no login (CKF_LOGIN_REQUIRED is clear): this PIN opens TARGET with each session; a login
 *                      is taken all the same, if its PIN is empty
 *   LOGIN_LOG="file"   goes with either: each login adds a line to the file, "typed", "empty" or "sent"
 *   MANUFACTURER="text"  says who made its tokens
 *   CRYPTOKI_MINOR=n   implements version 2.n
 *   CRYPTOKI_MAJOR=n   implements version n.40
 */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long ulong;

enum { GET_TOKEN_INFO = 6, OPEN_SESSION = 12, LOGIN = 18, FUNCTIONS = 68 };
enum { CKR_OK = 0, CKR_ARGUMENTS_BAD = 7, CKU_USER = 1 };
enum { CKF_LOGIN_REQUIRED = 4, CKF_PROTECTED_AUTHENTICATION_PATH = 0x100 };

struct function_list {
    unsigned char major, minor;
    void *call[FUNCTIONS];
};

struct token_info {
    unsigned char label[32], manufacturer[32], model[16], serial[16];
    ulong flags;
};

static struct function_list ours, *target;

#if defined LOGIN_LOG || defined MANUFACTURER
static ulong get_token_info(ulong slot, struct token_info *info)
{
    ulong status = ((ulong(*)(ulong, struct token_info *))target->call[GET_TOKEN_INFO])(slot, info);
    if (status != CKR_OK)
        return status;
#ifdef MANUFACTURER
    memset(info->manufacturer, ' ', sizeof info->manufacturer);
    memcpy(info->manufacturer, MANUFACTURER, strlen(MANUFACTURER));
#endif
#ifdef TYPED_PIN
    info->flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
#elif defined LOGIN_FREE
    info->flags &= ~(ulong)CKF_LOGIN_REQUIRED;
#endif
    return CKR_OK;
}
#endif

#ifdef LOGIN_LOG
static ulong log_in(ulong session, ulong user, const char *pin)
{
    return ((ulong(*)(ulong, ulong, const char *, ulong))target->call[LOGIN])(session, user, pin, strlen(pin));
}

static ulong login(ulong session, ulong user, unsigned char *pin, ulong length)
{
    FILE *log = fopen(LOGIN_LOG, "a");
    if (!log || fprintf(log, "%s\n", length ? "sent" : pin ? "empty" : "typed") < 0 || fclose(log))
        abort();
#ifdef TYPED_PIN
    return pin || length ? CKR_ARGUMENTS_BAD : log_in(session, user, TYPED_PIN);
#else
    (void)session, (void)user;
    return pin && !length ? CKR_OK : CKR_ARGUMENTS_BAD;
#endif
}
#endif

#ifdef LOGIN_FREE
static ulong open_session(ulong slot, ulong flags, void *application, void *notify, ulong *session)
{
    ulong status = ((ulong(*)(ulong, ulong, void *, void *, ulong *))target->call[OPEN_SESSION])(
        slot, flags, application, notify, session);
    if (status == CKR_OK)
        log_in(*session, CKU_USER, LOGIN_FREE); /* again in a second session of the process: it stays logged in */
    return status;
}
#endif

ulong C_GetFunctionList(struct function_list **list)
{
    void *library = dlopen(TARGET, RTLD_NOW | RTLD_LOCAL);
    ulong (*get_function_list)(struct function_list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
    if (!get_function_list || get_function_list(&target) != CKR_OK)
        abort();
    ours = *target;
#if defined LOGIN_LOG || defined MANUFACTURER
    ours.call[GET_TOKEN_INFO] = get_token_info;
#endif
#ifdef LOGIN_LOG
    ours.call[LOGIN] = login;
#endif
#ifdef LOGIN_FREE
    ours.call[OPEN_SESSION] = open_session;
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
