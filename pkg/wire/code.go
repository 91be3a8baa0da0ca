package wire

import "strconv"

// Code is a server's reason for refusing (Cedar/Cedar.h, ERR_*). Codes that only
// local management can meet are not listed here.
type Code uint32

// The codes that this project acts on by name.
const (
	CodeDisconnected    Code = 3
	CodeProtocolError   Code = 4
	CodeAuthUnsupported Code = 7
	CodeHubNotFound     Code = 8
	CodeAuthFailed      Code = 9
	CodeHubStopping     Code = 10
	CodeAccessDenied    Code = 12
	CodeSessionTimeout  Code = 13
	CodeOtherProtocol   Code = 14
	CodeTooManyConns    Code = 15
	CodeHubBusy         Code = 16
	CodeTooManySessions Code = 20
	CodeNotSupported    Code = 33
	CodeMonitorDenied   Code = 107
	CodeBridgeDenied    Code = 108
	CodeAutoDisconnect  Code = 126 // no server sends it: the client ends the session
)

// Advice says what to do after a Code.
type Advice int

const (
	Retry Advice = iota + 1 // it may work next time
	Wait                    // the server is busy: try again, but later
	Never                   // it cannot work until somebody changes a setting
)

type codeInfo struct {
	advice Advice
	text   string
}

// codes is the table of what a login can be answered with. 149 to 152 are left
// out on purpose: two lines of the server use them for different things.
var codes = map[Code]codeInfo{
	1:                   {Retry, "the server could not reach what it needed"},
	2:                   {Never, "the peer is not a SoftEther VPN server"},
	CodeDisconnected:    {Retry, "the server ended the connection"},
	CodeProtocolError:   {Never, "the server did not understand the request"},
	5:                   {Never, "the server did not take us for a VPN client"},
	CodeAuthUnsupported: {Never, "the server does not offer this kind of authentication"},
	CodeHubNotFound:     {Never, "there is no such virtual hub on the server; check -hub"},
	CodeAuthFailed:      {Never, "user name or password is wrong, or this user must log in another way; check -user and the password (users of RADIUS or a domain need -plain-password)"},
	CodeHubStopping:     {Wait, "the virtual hub is offline"},
	11:                  {Retry, "the session was removed while logging in"},
	CodeAccessDenied:    {Never, "the user is not allowed in: expired, or denied by policy; ask the server's administrator"},
	CodeSessionTimeout:  {Retry, "the session is no longer known to the server"},
	CodeOtherProtocol:   {Retry, "the session belongs to another protocol"},
	CodeTooManyConns:    {Retry, "the session has all its connections already"},
	CodeHubBusy:         {Wait, "the virtual hub has as many sessions as it may"},
	CodeTooManySessions: {Wait, "the user is logged in as often as the policy allows"},
	21:                  {Wait, "the server's licence does not allow another session"},
	23:                  {Retry, "the server had an internal error"},
	CodeNotSupported:    {Never, "the server does not offer VPN sessions"},
	38:                  {Never, "the server found a parameter invalid"},
	46:                  {Never, "the server is not a cluster controller"},
	49:                  {Retry, "no cluster member can host the virtual hub now"},
	51:                  {Never, "an empty password is accepted only from the server's own machine"},
	52:                  {Never, "the user lacks the right to do this"},
	63:                  {Never, "the server has more users than it may"},
	68:                  {Never, "the user does not log in by a password"},
	69:                  {Never, "the old password is wrong"},
	77:                  {Never, "the server does not take keys of this size"},
	81:                  {Never, "another VPN product on the server blocks us"},
	86:                  {Never, "the server is of another product"},
	87:                  {Never, "the virtual hub wants a newer client"},
	101:                 {Retry, "the clocks differ too much"},
	103:                 {Wait, "the server has no client licence left"},
	104:                 {Wait, "the server has no bridge licence left"},
	105:                 {Wait, "the server takes no sessions now"},
	CodeMonitorDenied:   {Never, "monitoring mode is not allowed for this user; ask the server's administrator to set MonitorPort in the user's policy"},
	CodeBridgeDenied:    {Never, "bridge mode is not allowed for this user; drop -bridge, or ask the server's administrator to lift NoBridge and NoRouting from the user's policy"},
	109:                 {Never, "the virtual hub does not allow our IP address"},
	111:                 {Retry, "the server is out of memory"},
	114:                 {Wait, "the server's licence check did not succeed"},
	115:                 {Wait, "the server's internet check did not succeed"},
	116:                 {Wait, "the client licence check did not succeed"},
	119:                 {Wait, "the server has no licence"},
	120:                 {Wait, "the cluster has no licence"},
	121:                 {Never, "the server wants another product"},
	122:                 {Never, "the server wants another product"},
	123:                 {Never, "the server's trial version has expired"},
	124:                 {Never, "the server serves only clients of its own brand"},
	125:                 {Never, "the server is of another brand"},
	CodeAutoDisconnect:  {Never, "the user's policy has AutoDisconnect, by which the server's administrator wants sessions to end after a time; start a new one, or ask for more"},
	127:                 {Never, "the virtual hub wants a client of a certain identity"},
	129:                 {Never, "the server's subscription is too old"},
	130:                 {Never, "the server runs an illegal trial version"},
	131:                 {Never, "there are several servers behind this address"},
	138:                 {Never, "the password has expired at the authentication server and must be changed there"},
	143:                 {Never, "this build of the server cannot authenticate this kind of user"},
	147:                 {Never, "this build of the server lacks the function"},
}

// Error says in a sentence what c means and what can be done.
func (c Code) Error() string {
	info, ok := codes[c]
	if !ok {
		return "the server refused with code " + strconv.Itoa(int(c))
	}
	return info.text + " (code " + strconv.Itoa(int(c)) + ")"
}

// Advice says what to do about c. An unknown code is worth another try.
func (c Code) Advice() Advice {
	if info, ok := codes[c]; ok {
		return info.advice
	}
	return Retry
}
