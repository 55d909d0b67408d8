//! The bugs of which the suite has to catch each.

macro_rules! bugs {
    ($($bug:ident,)*) => {
        /// The bug of a backend.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Bug {
            None,
            $($bug,)*
        }

        pub(super) const BUGS: &[Bug] = &[$(Bug::$bug),*];
    };
}

bugs! {
    GrantsWhatIsHeld,
    TakesItsOwnLockForForeign,
    TakesRetriesForNew,
    RemembersIdsForEver,
    ReleasesWithoutComparison,
    ReleasesNothing,
    ReleaseOfTheUnknownFails,
    ForgetsTheMinimumHold,
    RenewsWhatIsLost,
    LosesWhatIsHeld,
    LosesWithoutReason,
    RenewsForNothing,
    MixesUpABatch,
    TokensStandStill,
    RaisesNoToken,
    EndsEarly,
    NeverEnds,
    HidesTheHolder,
    TellsOfNoCrash,
    TellsOfACrashAlways,
    FoldsNames,
    WakesNobody,
    InspectsNothing,
    HidesItsOperators,
    ListsNothing,
    HidesOddEntries,
    ListsNothingBesideAnOddEntry,
    BreaksAnything,
    ForgetsAnything,
    ForgetsACrash,
    TakesABreakForARelease,
    LeavesARetryItsOldEnd,
    GetsStuck,
    FindsItselfUnfit,
    ReleasesNowInWordsOnly,
    DeclaresNoMode,
    GrantsEveryModeAlone,
    GrantsEveryModeShared,
    CountsNoPermits,
    ForgetsWaiters,
    TakesATryForAWait,
    KeepsWaiters,
    HidesOtherHolders,
    NamesTheLastToExpire,
    ReservesNoTokens,
    ReservesForEveryAttempt,
    TakesItsOwnTokenForPrevious,
    GrantsOutOfTurn,
    LetsNewcomersIn,
    QueuesEveryAttemptAnew,
    RelaysWithoutRelease,
    GrantsLateRequests,
    ReleasesNothingHandedOver,
    MarksForWritersOnly,
    RaisesNoTokenOfAPart,
    RenewsOnePartOfEachName,
    HidesOtherPermits,
    WakesNoneBehindAPart,
}
